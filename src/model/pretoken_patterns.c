// A table: one row for each family of pre-tokenizers. Matching is pretoken.c's work.

#include "src/model/pretoken_patterns.h"

#include <string.h>

// Insides of character classes.
#define WHITE                                                                                      \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
    "\\x{205f}\\x{3000}"
#define DEEPSEEK_HAN "\\x{800}-\\x{9fa5}\\x{ac00}-\\x{d7ff}"
// The cased letters of the Unicode version with which DeepSeek LLM was published, by range.
#define DEEPSEEK_LETTER                                                                            \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-"        \
    "\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}"  \
    "\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-"        \
    "\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}"           \
    "\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-"       \
    "\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}"        \
    "\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}"         \
    "\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}"        \
    "\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}"        \
    "\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}"          \
    "\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}"        \
    "\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}"         \
    "\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-"        \
    "\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}"        \
    "\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}"             \
    "\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}"         \
    "\\x{1e900}-\\x{1e943}"
#define DEEPSEEK_SIGN                                                                              \
    "!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}"

// Alternatives.
#define CONTRACTION    "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
#define SPACES         "[" WHITE "]+(?![^" WHITE "])|[" WHITE "]+"
#define LINES_OR_SPACE "[" WHITE "]*[\\r\\n]+|" SPACES
#define WORD           "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define SIGNS          " ?[^" WHITE "\\p{L}\\p{N}]+"
#define LETTER_UPPER   "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LETTER_LOWER   "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"

// Whole patterns.
#define GPT2   "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|" SIGNS "|" SPACES
#define LLAMA3 CONTRACTION "|" WORD "|\\p{N}{1,3}|" SIGNS "[\\r\\n]*|" LINES_OR_SPACE
#define QWEN2  CONTRACTION "|" WORD "|\\p{N}|" SIGNS "[\\r\\n]*|" LINES_OR_SPACE
#define TEKKEN                                                                                     \
    "[^\\r\\n\\p{L}\\p{N}]?" LETTER_UPPER "*" LETTER_LOWER "+|"                                    \
    "[^\\r\\n\\p{L}\\p{N}]?" LETTER_UPPER "+" LETTER_LOWER "*|"                                    \
    "\\p{N}|" SIGNS "[\\r\\n/]*|" LINES_OR_SPACE

static const struct pretoken_family families[] = {
    {.names = " default ", .patterns = {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {.names = " gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de gigachat a.x-4.0 mellum "
              "modern-bert mpt olmo jais trillion granite-docling exaone4 ",
     .patterns = {GPT2}},
    {.names = " llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 ",
     .keeps_words = true,
     .adds_bos = true,
     .patterns = {LLAMA3}},
    {.names = " smaug-bpe dbrx chatglm-bpe glm4 ", .patterns = {LLAMA3}},
    {.names = " qwen2 deepseek-r1-qwen stablelm2 megrez hunyuan ", .patterns = {QWEN2}},
    {.names = " tekken ", .keeps_words = true, .adds_bos = true, .patterns = {TEKKEN}},
    {.names = " deepseek-coder ",
     .patterns = {"[\\r\\n]", "[" WHITE "]?\\p{L}+", "[" WHITE "]?\\p{P}+", "[" DEEPSEEK_HAN "]+",
                  "\\p{N}"}},
    // The look-behind changes no match: it spares trying each end of a long run of spaces.
    {.names = " deepseek-llm ",
     .patterns = {"[\\r\\n]", "[" WHITE "]?[" DEEPSEEK_LETTER "]+",
                  "[" WHITE "]?[" DEEPSEEK_SIGN "]+", "(?<![" WHITE "])[" WHITE "]+\\z",
                  "[" DEEPSEEK_HAN "]+", "\\p{N}+"}},
    {.names = " starcoder refact command-r smollm codeshell exaone minerva-7b ",
     .patterns = {"\\p{N}", GPT2}},
    {.names = " falcon ", .patterns = {"[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"}},
};

const struct pretoken_family *pretoken_patterns_find(const char *name, size_t name_bytes)
{
    if (name_bytes == 0 || memchr(name, ' ', name_bytes) != NULL) return NULL;
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        const char *names = families[i].names;
        for (const char *at = names; at[1] != '\0'; at = strchr(at + 1, ' '))
            if (strncmp(at + 1, name, name_bytes) == 0 && at[1 + name_bytes] == ' ')
                return &families[i];
    }
    return NULL;
}
