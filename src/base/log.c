// Formats log lines for the owner's callback. Not for the data path, which counts instead.

#include "src/base/log.h"

#include <stdarg.h>
#include <stdio.h>

void log_write(const struct log *log, enum fathom_log_level level, const char *format, ...)
{
    if (log->fn == NULL) return;
    char text[1024] = "";
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    log->fn((int)level, text, log->user);
}
