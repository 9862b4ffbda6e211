// A queue that misbehaves as it is told, over the one with threads: holds back what is done, moves
// less than was asked, fails.

#ifndef FATHOM_TESTS_IO_QUEUE_FAKE_H
#define FATHOM_TESTS_IO_QUEUE_FAKE_H

#include "io/queue.h"

struct queue_fake {
    bool holds;  // reap sleeps to its deadline, if it has one, and gives nothing
    bool halves; // asks for half of the pages, and says of every third request that it moved half
                 // a page less
    int32_t result; // of request number n_good; 0: none fails
    size_t n_good;
    size_t n_pushed;
};

// What all fake queues of this process do; zero: nothing wrong.
extern struct queue_fake queue_fake;
extern const struct queue_ops queue_fake_ops;

#endif
