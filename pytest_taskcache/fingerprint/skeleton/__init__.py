"""What one source file defines: digests of its functions, its skeleton, and what it mentions.

The skeleton is what runs when the module is imported: every statement of the module and of its
classes. A plain function definition only binds a name, so the skeleton leaves it out as long as
nobody can notice whether that name is bound: then a new function changes no one who does not
use it. Classes always count the names of their methods, since a method may override another.
"""

from pytest_taskcache.fingerprint.skeleton.parsed import Digests, Module
from pytest_taskcache.fingerprint.skeleton.parsing import parse_module
from pytest_taskcache.fingerprint.skeleton.unparsed import unparsed_module

__all__ = ["Digests", "Module", "parse_module", "unparsed_module"]
