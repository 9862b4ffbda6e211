// Messages of the command. Standard output belongs to results; everything here goes to standard
// error.

#include "tools/say.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void say_printable(char *text)
{
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f) *text = '?';
}

static void write_line(const char *format, va_list list)
{
    char line[2048];
    vsnprintf(line, sizeof line, format, list);
    say_printable(line);
    fprintf(stderr, "fathom: %s\n", line);
}

int say_error(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    write_line(format, list);
    va_end(list);
    return EXIT_BAD;
}

void say_note(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    write_line(format, list);
    va_end(list);
}

// The library names a field of its parameters and the flag that sets it, "kv.host_bytes
// (--kv-ram)". Whoever gave the flag knows it by that name alone.
static void name_flags(char *text)
{
    char *field = text, *flag, *end;
    while ((field = strstr(field, "kv.")) != NULL) {
        const size_t bytes = strcspn(field, " ");
        flag = field + bytes + 2;
        end = strncmp(field + bytes, " (--", 4) == 0 ? strchr(flag, ')') : NULL;
        if (end != NULL) {
            memmove(field, flag, (size_t)(end - flag));
            memmove(field + (end - flag), end + 1, strlen(end));
        }
        field++;
    }
}

static void say_library(const char *words)
{
    char text[2048];
    snprintf(text, sizeof text, "%s", words);
    name_flags(text);
    say_note("%s", text);
}

int say_status(fathom_status status)
{
    if (status == FATHOM_OK) return EXIT_GOOD;
    if (status == FATHOM_ECANCELLED) return EXIT_INTERRUPTED;
    const char *text = fathom_last_error();
    say_library(text[0] != '\0' ? text : fathom_status_name(status));
    return EXIT_BAD;
}

void say_log(int level, const char *text, void *user)
{
    const int64_t *level_max = user;
    if (level <= *level_max) say_library(text);
}
