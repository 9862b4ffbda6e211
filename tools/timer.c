// The command's clock; the library's own is not among the public headers.

#include "tools/timer.h"

#include <time.h>

double timer_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}
