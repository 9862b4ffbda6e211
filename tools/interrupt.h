// Ctrl-C: the first one asks the running command to end cleanly, the second one kills it.

#ifndef FATHOM_TOOLS_INTERRUPT_H
#define FATHOM_TOOLS_INTERRUPT_H

#include <stdbool.h>

void interrupt_catch(void);

// Whether the first Ctrl-C has come. Cheap: ask after every piece of work.
bool interrupt_seen(void);

#endif
