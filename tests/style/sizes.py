# Sizes: a function fits a screen, a file fits a sitting.
#
# Functions: 70 lines, at most 2 % of them longer, none over 120. Files: 400 lines, up to 800 with
# the reason in the head comment. A function is found by its braces in the first column, which is
# how the formatter sets every C function; a macro counts as a function.

import ast
import re

import sources

FUNCTION_LINES = 70
FUNCTION_LINES_MAX = 120
LONG_SHARE_MAX = 0.02
FILE_LINES = 400
FILE_LINES_MAX = 800
REASON = "Over 400 lines because"


def c_functions(path):
    """(name, line, lines) of each function and macro, from its signature to its last line."""
    lines = sources.code(path).split("\n")
    start = 0
    found = []
    for i, line in enumerate(lines):
        if line == "{":
            start = i
            while start > 0 and re.match(r"[^\s#}]|\s+\S", lines[start - 1]):
                start -= 1
        elif line.startswith("}") and lines[start:i] and "{" in lines[start:i]:
            signature = " ".join(lines[start:lines.index("{", start)])
            name = re.search(r"(\w+)\s*\(", signature)
            found.append((name.group(1) if name else "?", start + 1, i - start + 1))
            start = i + 1
    i = 0
    while i < len(lines):
        first = i
        while lines[i].endswith("\\") and i + 1 < len(lines):
            i += 1
        macro = re.match(r"#\s*define\s+(\w+)\(", lines[first])
        if macro and i > first:
            found.append((macro.group(1), first + 1, i - first + 1))
        i += 1
    return found


def python_functions(path):
    tree = ast.parse(sources.read(path), path)
    return [(node.name, node.lineno, node.end_lineno - node.lineno + 1)
            for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def head_comment(text):
    lines = text.split("\n")
    end = next((i for i, line in enumerate(lines) if not line.startswith(("//", "#"))), len(lines))
    return " ".join(line.lstrip("/# ") for line in lines[:end])


def main():
    functions = []
    too_long = []
    unexplained = []
    for path in sources.list_files():
        is_c = path.endswith(sources.C_ENDINGS)
        if not is_c and not path.endswith((".py", ".sh")):
            continue
        text = sources.read(path)
        n_lines = text.count("\n")
        if n_lines > FILE_LINES_MAX:
            too_long.append(f"{path}: {n_lines} lines")
        elif n_lines > FILE_LINES and REASON not in head_comment(text):
            unexplained.append(f"{path}: {n_lines} lines, and no '{REASON} ...' in its head")
        found = c_functions(path) if is_c else python_functions(path) if path.endswith(".py") else []
        for name, line, n in found:
            functions.append((n, f"{path}:{line}: {name}: {n} lines"))
    functions.sort(reverse=True)
    long = [text for n, text in functions if n > FUNCTION_LINES]
    share = len(long) / max(1, len(functions))
    checks = sources.Checks("sizes")
    print(f"{len(functions)} functions, {len(long)} over {FUNCTION_LINES} lines "
          f"({100 * share:.1f} %)")
    checks.rule(f"no function over {FUNCTION_LINES_MAX} lines",
                [text for n, text in functions if n > FUNCTION_LINES_MAX])
    checks.rule(f"at most {100 * LONG_SHARE_MAX:.0f} % of the functions over {FUNCTION_LINES} "
                "lines", long if share > LONG_SHARE_MAX else [])
    checks.rule(f"no file over {FILE_LINES_MAX} lines", too_long)
    checks.rule(f"files over {FILE_LINES} lines say why", unexplained)
    checks.finish()


if __name__ == "__main__":
    main()
