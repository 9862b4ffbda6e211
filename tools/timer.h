// Wall-clock time for reports.

#ifndef FATHOM_TOOLS_TIMER_H
#define FATHOM_TOOLS_TIMER_H

// Milliseconds since some fixed moment; never runs backwards.
double timer_now_ms(void);

#endif
