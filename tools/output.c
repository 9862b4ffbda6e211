// Standard output. Token texts may end inside a UTF-8 character; a terminal must not see halves of
// characters, so they wait here for the next token. Bytes that are no UTF-8 pass through as they
// are.

#include "tools/output.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/say.h"

// Bytes of the character that a lead byte opens; 1 for anything else.
static size_t character_bytes(unsigned char lead)
{
    if (lead >= 0xf0 && lead <= 0xf4) return 4;
    if (lead >= 0xe0 && lead <= 0xef) return 3;
    if (lead >= 0xc2 && lead <= 0xdf) return 2;
    return 1;
}

// How many bytes at the end of text begin a character that is not complete: 0 to 3.
static size_t count_unfinished(const char *text, size_t bytes)
{
    for (size_t n = 1; n <= 3 && n <= bytes; n++) {
        unsigned char c = (unsigned char)text[bytes - n];
        if ((c & 0xc0) == 0x80) continue;
        return character_bytes(c) > n ? n : 0;
    }
    return 0;
}

static int write_all(struct output *output, const char *text, size_t bytes)
{
    if (bytes == 0) return EXIT_GOOD;
    output->last = text[bytes - 1];
    (void)fwrite(text, 1, bytes, stdout);
    return output->whole_lines && output->last != '\n' ? EXIT_GOOD : output_check();
}

int output_write(struct output *output, const char *text, size_t bytes)
{
    // Complete the character held back first; what then remains of text stands on its own.
    while (output->n_pending > 0 && bytes > 0) {
        if (((unsigned char)*text & 0xc0) != 0x80) {
            SAY_TRY(output_end(output, false));
            break;
        }
        output->pending[output->n_pending++] = *text++;
        bytes--;
        if (count_unfinished(output->pending, output->n_pending) == 0)
            SAY_TRY(output_end(output, false));
    }
    size_t n_kept = count_unfinished(text, bytes);
    SAY_TRY(write_all(output, text, bytes - n_kept));
    if (n_kept > 0) {
        memcpy(output->pending, text + bytes - n_kept, n_kept);
        output->n_pending = n_kept;
    }
    return EXIT_GOOD;
}

int output_end(struct output *output, bool end_line)
{
    size_t n = output->n_pending;
    output->n_pending = 0;
    SAY_TRY(write_all(output, output->pending, n));
    return end_line && output->last != '\n' ? write_all(output, "\n", 1) : EXIT_GOOD;
}

int output_check(void)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) return EXIT_GOOD;
    return say_error("cannot write to standard output: %s",
                     errno != 0 ? strerror(errno) : "an earlier write failed");
}

int output_try_file(const char *path)
{
    if (path == NULL || strcmp(path, "-") == 0) return EXIT_GOOD;
    struct stat info;
    const bool is_new = stat(path, &info) != 0;
    FILE *file = fopen(path, "ab");
    if (file == NULL) return say_error("cannot write %s: %s", path, strerror(errno));
    (void)fclose(file); // nothing was written
    if (is_new) output_remove(path);
    return EXIT_GOOD;
}

void output_remove(const char *path)
{
    char target[PATH_MAX];
    struct stat info;
    if (realpath(path, target) != NULL && stat(target, &info) == 0 && S_ISREG(info.st_mode))
        (void)remove(target);
}

int output_check_other(const char *path, const char *source)
{
    struct stat a, b;
    if (path == NULL || source == NULL || strcmp(path, "-") == 0 || strcmp(source, "-") == 0)
        return EXIT_GOOD;
    if (stat(path, &a) != 0 || stat(source, &b) != 0) return EXIT_GOOD;
    if (!S_ISREG(a.st_mode) || a.st_dev != b.st_dev || a.st_ino != b.st_ino) return EXIT_GOOD;
    return say_error("%s: the result would replace what it is made from: name another file", path);
}
