// UTF-8, strictly: no overlong forms, no surrogates, nothing above U+10FFFF.

#ifndef FATHOM_SRC_MODEL_UTF8_H
#define FATHOM_SRC_MODEL_UTF8_H

#include <stddef.h>
#include <stdint.h>

// Bytes of the character at the front of the text, 1 to 4; *code is its code point. 0 if the text
// is empty or does not begin with a well-formed character.
size_t utf8_decode(const char *text, size_t bytes, uint32_t *code);

// As utf8_decode, but a byte that begins no character counts as a character of its own, with the
// code 0x110000 + byte. Never 0 unless the text is empty.
size_t utf8_next(const char *text, size_t bytes, uint32_t *code);

// Bytes of the longest well-formed run at the front of the text.
size_t utf8_valid_bytes(const char *text, size_t bytes);

#endif
