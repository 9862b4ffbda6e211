// Error texts, one per thread, and the names of status codes.
//
// The text is the library's only mutable storage outside a handle: it belongs to the thread that
// met the error, so no lock is needed and a call on one thread never changes what another reads.

#include "src/base/status.h"

#include "fathom/version.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    TEXT_BYTES = 1024 // with the final zero; longer texts are cut
};

static _Thread_local char error_text[TEXT_BYTES];

const char *fathom_status_name(fathom_status status)
{
    switch (status) {
    case FATHOM_OK:
        return "OK";
    case FATHOM_IN_PROGRESS:
        return "IN_PROGRESS";
    case FATHOM_RETRY:
        return "RETRY";
    case FATHOM_PARTIAL:
        return "PARTIAL";
    case FATHOM_ECANCELLED:
        return "ECANCELLED";
    case FATHOM_EINVAL:
        return "EINVAL";
    case FATHOM_ENOMEM:
        return "ENOMEM";
    case FATHOM_EIO:
        return "EIO";
    case FATHOM_EDEVICE:
        return "EDEVICE";
    case FATHOM_EFULL:
        return "EFULL";
    case FATHOM_ECORRUPT:
        return "ECORRUPT";
    case FATHOM_EUNSUPPORTED:
        return "EUNSUPPORTED";
    case FATHOM_EMISMATCH:
        return "EMISMATCH";
    case FATHOM_EINTERNAL:
        return "EINTERNAL";
    default:
        return "UNKNOWN";
    }
}

const char *fathom_last_error(void)
{
    return error_text;
}

#define QUOTE(x)                    #x
#define DOTTED(major, minor, patch) QUOTE(major) "." QUOTE(minor) "." QUOTE(patch)

const char *fathom_version(void)
{
    return DOTTED(FATHOM_VERSION_MAJOR, FATHOM_VERSION_MINOR, FATHOM_VERSION_PATCH);
}

// Both setters format into a local text first: the arguments may point into error_text.

void status_note(const char *format, ...)
{
    char text[TEXT_BYTES] = "";
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(error_text, text, sizeof text);
}

fathom_status status_prefix(fathom_status status, const char *format, ...)
{
    char text[TEXT_BYTES] = "";
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    char joined[2 * TEXT_BYTES + 2] = "";
    snprintf(joined, sizeof joined, "%s: %s", text, error_text);
    memcpy(error_text, joined, sizeof error_text - 1); // its last byte is always zero
    return status;
}
