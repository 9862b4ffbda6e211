// The one place where the version stands; meson.build reads it from here.

#ifndef FATHOM_VERSION_H
#define FATHOM_VERSION_H

#define FATHOM_VERSION_MAJOR 0 // an ABI break; also the SONAME
#define FATHOM_VERSION_MINOR 1 // additions only
#define FATHOM_VERSION_PATCH 0

#endif
