// Generation: feed a prompt, then pick, print and feed one token after the other.

#ifndef FATHOM_TOOLS_GENERATE_H
#define FATHOM_TOOLS_GENERATE_H

#include "tools/bytes.h"
#include "tools/ids.h"
#include "tools/output.h"
#include "tools/rig.h"

struct generate_options {
    int64_t n_predict; // most tokens; below 0: until the model ends or the context is full
    int64_t seed;      // below 0: a new one each time
    float temperature;
    int64_t top_k; // 0 or less: all
    float top_p;
    float min_p;
    float repeat_penalty;
    int64_t n_repeat; // tokens; below 0: the context
    bool ignore_eos;
    bool special; // print control tokens
};

struct generator {
    struct rig *rig; // borrowed until close
    fathom_sampler *sampler;
    struct ids fed; // what the sequence holds
    struct output output;
    uint64_t seed;
    bool draws; // the seed plays a part
    int64_t n_predict;
    bool special;
    bool end_lines; // end every reply with a newline; by default on a terminal alone
    uint64_t n_prompt, n_eval;
    double prompt_ms, eval_ms;
};

// The library's sampling defaults, without limit and with a random seed.
struct generate_options generate_defaults(void);
struct flag_group generate_flags(struct generate_options *options);

// Says which flag has a value that no model could use.
int generate_check(const struct generate_options *options);

int generate_open(struct generator *generator, struct rig *rig,
                  const struct generate_options *options);
void generate_close(struct generator *generator);

// Makes the sequence hold exactly ids [n_ids], feeding only what it does not hold yet, then prints
// the continuation. reply, if not NULL, gets the continuation's bytes, also when interrupted.
int generate_reply(struct generator *generator, const int32_t *ids, size_t n_ids,
                   struct bytes *reply);

// The closing report, in llama.cpp's words, on standard error.
void generate_report(const struct generator *generator);

#endif
