"""Every numbered equation has a test that checks it and says so, and every theorem its proof."""

import ast
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.py")])
LABEL = re.compile(r"\$\$[ \t]*\(([^()\s]+)\)[ \t]*$", re.MULTILINE)
DIRECTIVE = re.compile(r"\{math\}.*\n(?:[# ]*:.*\n)*?[# ]*:label: *(\S+)")


def numbered(texts):
    """How often each label of an equation occurs."""
    return Counter(label for text in texts for kind in (LABEL, DIRECTIVE)
                   for label in kind.findall(text))  # fmt: skip


def marks(node):
    """Labels of all `pytest.mark.equation("eq-…", …)` below a node."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.equation":
            assert call.args and not call.keywords, f"no labels: {ast.unparse(call)}"
            yield from map(ast.literal_eval, call.args)


def claimed(source):
    """Labels that a file's tests claim: by a decorator, a param's marks, or pytestmark."""
    found = set()
    if "pytest.mark.equation(" not in source:  # parsing takes longer
        return found
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if node.name.lower().startswith("test"):
                for decorator in node.decorator_list:
                    found.update(marks(decorator))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            found.update(marks(node.value))
        elif isinstance(node, ast.keyword) and node.arg == "marks":
            found.update(marks(node.value))
    return found


def faults(texts, sources):
    """What is wrong between the pages' labels and the tests' claims."""
    labels, tested = numbered(texts), set().union(*map(claimed, sources))
    wrong = [f"{label} has no test" for label in sorted(labels.keys() - tested)]
    wrong += [f"{label} is tested, and no equation" for label in sorted(tested - labels.keys())]
    wrong += [f"{label} occurs {n} times" for label, n in sorted(labels.items()) if n > 1]
    return wrong


def test_every_numbered_equation_has_its_test_and_every_claim_its_equation():
    texts = [path.read_text() for path in PAGES]
    assert len(numbered(texts)) > 40
    assert faults(texts, [path.read_text() for path in (ROOT / "tests").glob("test_*.py")]) == []


KINDS = "theorem|proposition|lemma|corollary"
BOX = re.compile(
    rf":::\{{prf:(?:{KINDS})\}}.*?\n:label: (\S+)\n(.*?)^:::$", re.DOTALL | re.MULTILINE
)


def uncommented(text):
    """The text of a notebook's cells; of other pages nothing changes but their title."""
    return re.sub(r"^#(?: |$)", "", text, flags=re.MULTILINE)


def unproved(text):
    """Labels of theorems that neither cite a proof nor have one below, before what comes next."""
    text = uncommented(text)
    for box in BOX.finditer(text):
        rest = re.split(r"^(?:## |:::\{prf:)", text[box.end() :], flags=re.MULTILINE)[0]
        if "{cite" not in box[2] and ":::{dropdown} Proof" not in rest:
            yield box[1]


def test_every_theorem_has_its_proof():
    texts = [path.read_text() for path in PAGES]
    assert sum(len(BOX.findall(uncommented(text))) for text in texts) > 20
    assert [label for text in texts for label in unproved(text)] == []
    box = "# :::{prf:theorem} Title\n# :label: thm-a\n# $a = b$\n# :::\n#\n"
    proof = "# :::{dropdown} Proof\n# By definition.\n# :::\n"
    assert list(unproved(box + proof)) == [] == list(unproved(box.replace("$a", "{cite:p}`b` $a")))
    assert list(unproved(box)) == list(unproved(box + "# ## Next\n" + proof)) == ["thm-a"]
    assert list(unproved(box + box.replace("thm-a", "thm-b") + proof)) == ["thm-a"]


PAGE = """
$$ a = b $$ (eq-one)

$$
a = c,
$$ (eq-two)

# $$
# a = d, \\qquad F(x)
# $$ (eq-three)

```{math}
:label: eq-four
a = e
```

$$ no label (eq-five) $$ and (eq-six), with $a$ (eq-seven)
"""
TESTS = '''
import pytest
pytestmark = [pytest.mark.equation("eq-one")]

@pytest.mark.equation("eq-two", "eq-three")
def test_two():
    """eq-five"""

@pytest.mark.parametrize("a", [1, pytest.param(2, marks=pytest.mark.equation("eq-four"))])
def test_four(a):  # eq-six
    pass
'''


def test_labels_and_claims_are_seen_where_they_are():
    assert numbered([PAGE]) == Counter(["eq-one", "eq-two", "eq-three", "eq-four"])
    assert claimed(TESTS) == {"eq-one", "eq-two", "eq-three", "eq-four"}
    assert faults([PAGE], [TESTS]) == []


def test_a_missing_test_a_false_claim_and_a_label_given_twice_are_found():
    helper = TESTS.replace("def test_two", "def not_a_test")
    assert faults([PAGE], [helper]) == ["eq-three has no test", "eq-two has no test"]
    comment = TESTS.replace("@pytest.mark.equation", "# @pytest.mark.equation")
    assert faults([PAGE], [comment]) == ["eq-three has no test", "eq-two has no test"]
    assert faults([PAGE.replace("eq-two", "eq-2")], [TESTS]) == [
        "eq-2 has no test", "eq-two is tested, and no equation"
    ]  # fmt: skip
    assert faults([PAGE, "$$ a $$ (eq-one)"], [TESTS]) == ["eq-one occurs 2 times"]
