// Ctrl-C or SIGTERM: the first asks the running command to end cleanly, the second kills it.

#ifndef FATHOM_TOOLS_INTERRUPT_H
#define FATHOM_TOOLS_INTERRUPT_H

#include <stdbool.h>

void interrupt_catch(void);

// Whether the first has come. Cheap: ask after every piece of work.
bool interrupt_seen(void);

// What the process then ends with: what shells report of one that the signal ended.
int interrupt_code(void);

#endif
