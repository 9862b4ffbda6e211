// README and man page against --help. argv[1] is the command.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/check.h"
#include "tests/tools/cli.h"

// X of the "[X]" that --help ends a flag's text with, or "".
static void read_default(const char *entry, size_t bytes, char value[64])
{
    value[0] = '\0';
    while (entry[bytes - 1] == '\n')
        bytes--;
    if (entry[bytes - 1] != ']') return;
    size_t begin = bytes - 1;
    while (entry[begin - 1] != '[')
        begin--;
    snprintf(value, 64, "%.*s", (int)(bytes - 1 - begin), entry + begin);
}

// README and man page list every flag that --help lists, with the same defaults.
static void t_documents(void **state)
{
    (void)state;
    static const struct {
        const char *name, *begin, *end; // of a flag's entry
        const char *before, *after;     // its default
    } documents[] = {
        {"README.md", "\n| `%s`", "\n", "| ", " |"},
        {"tools/fathom.1", "\n.B \"%s", "\n.", "[", "]"},
    };
    const char *root = getenv("FATHOM_SOURCE_ROOT");
    char *page = strdup(strstr(cli_run("run --help").out, "\nKV cache\n"));
    *strstr(page, "\nRecording\n") = '\0';
    for (size_t i = 0; i < 2; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", root != NULL ? root : ".", documents[i].name);
        size_t bytes, n_flags = 0, n_defaults = 0;
        char *text = cli_read_file(path, &bytes);
        for (char *to = text, *from = text; (*to = *from) != '\0'; from++)
            to += *from != '\\'; // the man page's hyphens
        for (const char *at = strstr(page, "\n  --"), *next; at != NULL; at = next, n_flags++) {
            char flag[64], value[64], begin[96], wanted[96];
            next = strstr(at + 1, "\n  --");
            snprintf(flag, sizeof flag, "%.*s", (int)strcspn(at + 3, " \n"), at + 3);
            snprintf(begin, sizeof begin, documents[i].begin, flag);
            char *entry = strstr(text, begin);
            if (entry == NULL) fail_msg("%s is not in %s", flag, documents[i].name);
            read_default(at, next != NULL ? (size_t)(next - at) : strlen(at), value);
            if (value[0] == '\0') continue;
            n_defaults++;
            snprintf(wanted, sizeof wanted, "%s%s%s", documents[i].before, value,
                     documents[i].after);
            const char *found = strstr(entry, wanted);
            if (found == NULL || found > strstr(entry + strlen(begin), documents[i].end))
                fail_msg("%s has not the default \"%s\" in %s", flag, value, documents[i].name);
        }
        assert_int_equal(n_flags, 27);
        assert_int_equal(n_defaults, 22);
        free(text);
    }
    free(page);
}

int main(int argc, char **argv)
{
    cli_open(argc > 1 ? argv[1] : "fathom");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t_documents),
    };
    int code = check_run("cli_documents", tests, sizeof tests / sizeof tests[0]);
    cli_close();
    return code;
}
