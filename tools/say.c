// Messages of the command. Standard output belongs to results; everything here goes to standard
// error.

#include "tools/say.h"

#include <stdarg.h>
#include <stdio.h>

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

int say_status(fathom_status status)
{
    if (status == FATHOM_OK) return EXIT_GOOD;
    if (status == FATHOM_ECANCELLED) return EXIT_INTERRUPTED;
    const char *text = fathom_last_error();
    return say_error("%s", text[0] != '\0' ? text : fathom_status_name(status));
}

void say_log(int level, const char *text, void *user)
{
    const int64_t *level_max = user;
    if (level <= *level_max) say_note("%s", text);
}
