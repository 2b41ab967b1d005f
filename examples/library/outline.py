"""A directory tree that outlines the library: a page a module, an index a package."""

from __future__ import annotations

import ast
from pathlib import Path

from corpus import trees


def build_outline(directory: Path) -> int:
    """Fills the directory; how many pages it has now."""
    pages = 0
    for name, tree in trees():
        page = directory / Path(name).with_suffix(".md")
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(_page(name, tree), encoding="utf-8")
        pages += 1
    for folder in [directory, *(path for path in directory.rglob("*") if path.is_dir())]:
        names = sorted(path.stem for path in folder.glob("*.md"))
        (folder / "INDEX").write_text("\n".join(names), encoding="utf-8")
    return pages


def _page(name: str, tree: ast.Module) -> str:
    lines = [f"# {name}", "", ast.get_docstring(tree) or "", ""]
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            lines.append(f"* class `{node.name}`")
            lines += [
                f"  * `{inner.name}({ast.unparse(inner.args)})`"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines.append(f"* `{node.name}({ast.unparse(node.args)})`")
    return "\n".join(lines) + "\n"
