// The one mutable global of the command: a signal handler has no other way to tell.

#include "tools/interrupt.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t seen; // the signal's number; 0: none came

static void note_signal(int number)
{
    seen = number;
}

void interrupt_catch(void)
{
    // No SA_RESTART, so that a read from the terminal ends too; SA_RESETHAND, so that the second
    // signal finds the default action.
    struct sigaction action = {.sa_handler = note_signal, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    // A file that grows beyond the limit is an error of that write, and told so.
    action.sa_handler = SIG_IGN;
    sigaction(SIGXFSZ, &action, NULL);
}

bool interrupt_seen(void)
{
    return seen != 0;
}

int interrupt_code(void)
{
    return 128 + seen;
}
