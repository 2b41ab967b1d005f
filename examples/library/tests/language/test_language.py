from language import Model


def test_knows_how_docstrings_speak(model: Model) -> None:
    assert model.likeliest("return", "a") in {"new", "list", "string", "tuple", "dictionary"}


def test_prefers_english_to_noise(model: Model) -> None:
    english = model.perplexity("return true if the object is a directory")
    assert english < model.perplexity("directory a is object the if true return")


def test_weights_are_a_mixture(model: Model) -> None:
    assert abs(sum(model.weights) - 1) < 1e-9
