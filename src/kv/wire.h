// Implementations by name, for the files of the engine that must not know them.

#ifndef FATHOM_SRC_KV_WIRE_H
#define FATHOM_SRC_KV_WIRE_H

#include "src/iface/selector.h"
#include "src/iface/store.h"

const struct selector_ops *wire_selector_ops(void);
const struct store_ops *wire_store_ops(void);
uint64_t wire_memory_bytes(void); // of this machine

#endif
