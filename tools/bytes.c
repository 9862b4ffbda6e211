// Growing byte runs and the reading of files into them.

#include "tools/bytes.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "tools/block.h"
#include "tools/interrupt.h"
#include "tools/say.h"

enum { READ_BYTES = 1 << 16 };

int bytes_reserve(struct bytes *bytes, size_t n_more)
{
    if (n_more > SIZE_MAX / 2 - bytes->n) return say_error("text of %zu bytes is too long", n_more);
    SAY_TRY(block_grow(&bytes->data, &bytes->capacity, bytes->n + n_more + 1, 1));
    bytes->data[bytes->n] = '\0';
    return EXIT_GOOD;
}

int bytes_append(struct bytes *bytes, const char *data, size_t n)
{
    SAY_TRY(bytes_reserve(bytes, n));
    if (n > 0) memcpy(bytes->data + bytes->n, data, n);
    bytes->n += n;
    bytes->data[bytes->n] = '\0';
    return EXIT_GOOD;
}

static int read_stream(struct bytes *bytes, FILE *file, const char *name)
{
    for (;;) {
        SAY_TRY(bytes_reserve(bytes, READ_BYTES));
        errno = 0;
        size_t n = fread(bytes->data + bytes->n, 1, READ_BYTES, file);
        bytes->n += n;
        bytes->data[bytes->n] = '\0';
        if (n == READ_BYTES) continue;
        if (interrupt_seen()) return EXIT_INTERRUPTED;
        if (ferror(file)) return say_error("cannot read %s: %s", name, strerror(errno));
        return EXIT_GOOD;
    }
}

int bytes_append_file(struct bytes *bytes, const char *path)
{
    if (strcmp(path, "-") == 0) return read_stream(bytes, stdin, "standard input");
    FILE *file = fopen(path, "rb");
    if (file == NULL) return say_error("cannot open %s: %s", path, strerror(errno));
    int code = read_stream(bytes, file, path);
    (void)fclose(file); // of a file that was read
    return code;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

// Reads one escape sequence at text (which points behind the backslash). Returns how many bytes of
// it were used; 0 if it is none.
static size_t read_escape(const char *text, char *out)
{
    static const char names[] = "ntr\\\"'0";
    static const char values[] = "\n\t\r\\\"'\0";
    const char *name = *text != '\0' ? strchr(names, *text) : NULL;
    if (name != NULL) {
        *out = values[name - names];
        return 1;
    }
    if (*text != 'x' || hex_digit(text[1]) < 0 || hex_digit(text[2]) < 0) return 0;
    *out = (char)(hex_digit(text[1]) * 16 + hex_digit(text[2]));
    return 3;
}

int bytes_append_escaped(struct bytes *bytes, const char *text)
{
    SAY_TRY(bytes_reserve(bytes, strlen(text)));
    while (*text != '\0') {
        char c = *text++;
        if (c == '\\') text += read_escape(text, &c);
        SAY_TRY(bytes_append(bytes, &c, 1));
    }
    return EXIT_GOOD;
}

void bytes_free(struct bytes *bytes)
{
    block_free(bytes->data);
    *bytes = (struct bytes){0};
}
