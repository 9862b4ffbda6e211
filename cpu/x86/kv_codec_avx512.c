// Codes of K and V rows with AVX-512: the algorithms of kv_codec_body.h at this width.

#include "cpu/ladder.h"

#include "cpu/x86/kv_codec_body.h"

void kv_codec_avx512_fill(struct kernel_table *table)
{
    fill_codec_entries(table);
}
