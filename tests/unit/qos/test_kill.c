/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: meters and buckets that outlive their process are whole after it was killed between any two
 * of its instructions. Method: a child works on shared memory while its parent lets it go one
 * instruction at a time (ptrace), and looks at the memory after each: a copy, put right, must be
 * what it was before the I/O under way or what it is after it. Where ptrace is not allowed the test
 * is skipped, and says so. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "qos/bucket.h"
#include "qos/meter.h"

/* The child raises `begun` and `done` around each operation, so that the parent knows which. */
struct stage {
    volatile uint32_t begun, done;
    struct meter meter;
    struct bucket bucket;
};

#define OPERATIONS 9u
#define STEPS_MAX 200000u

static const struct bucket_rate rate = {.rate = 1000, .burst_rate = 5000, .burst_ns = 1000000000};

static void meter_operation(struct meter *m, uint32_t i)
{
    if (i == 0)
        meter_arrive(m, IO_READ, 4096);
    else if (i == 1)
        meter_complete(m, IO_READ, 4096, false, 0, 90000, 90000);
    else if (i == 2)
        meter_arrive(m, IO_WRITE, 65536);
    else if (i == 3)
        meter_arrive(m, IO_FLUSH, 0);
    else if (i == 4)
        meter_complete(m, IO_WRITE, 65536, true, 5000, 90000, 95000);
    else if (i == 5)
        meter_complete(m, IO_FLUSH, 0, false, 0, 1000, 1000);
    else if (i == 6)
        meter_arrive_many(m, IO_READ, 5, 5 * 4096);
    else if (i == 7)
        meter_complete_many(m, IO_READ, 3, 3 * 4096, 90000, 90000);
    else
        meter_complete_many(m, IO_READ, 2, 2 * 4096, 70000, 91000);
}

static void bucket_operation(struct bucket *b, uint32_t i)
{
    if (i == 1 || i == 4)
        bucket_refill(b, 1000000 * (i + 1));
    else
        bucket_take(b, 1u << (3 * (i % 6)), 1000000 * (i + 1));
}

static void child(struct stage *s)
{
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
        _exit(77);
    raise(SIGSTOP);
    for (uint32_t i = 0; i < OPERATIONS; i++) {
        s->begun = i + 1;
        meter_operation(&s->meter, i);
        bucket_operation(&s->bucket, i);
        s->done = i + 1;
    }
    _exit(0);
}

static void assert_histograms_add_up(const struct meter *m)
{
    for (int d = 0; d < 2; d++) {
        uint64_t completions = 0;
        for (int op = 0; op < IO_OP_COUNT; op++)
            completions += (int)io_op_direction((enum io_op)op) == d ? m->op[op].completions : 0;
        for (int k = 0; k < METER_HIST_COUNT; k++) {
            uint64_t sum = 0;
            for (uint32_t i = 0; i < HIST_BUCKETS; i++)
                sum += m->hist[d][k].bucket[i];
            assert_int_equal(m->hist[d][k].count, completions);
            assert_int_equal(sum, completions);
        }
    }
}

/* Equal as readers see it: but for max_ns, and for the undo record. */
static bool meter_equal(const struct meter *a, const struct meter *b)
{
    bool equal = memcmp(a->op, b->op, sizeof(a->op)) == 0;
    for (int d = 0; d < 2; d++)
        for (int k = 0; k < METER_HIST_COUNT; k++)
            equal = equal && a->hist[d][k].count == b->hist[d][k].count &&
                    a->hist[d][k].sum_ns == b->hist[d][k].sum_ns &&
                    memcmp(a->hist[d][k].bucket, b->hist[d][k].bucket,
                           sizeof(a->hist[d][k].bucket)) == 0;
    return equal;
}

static bool bucket_equal(const struct bucket *a, const struct bucket *b)
{
    const struct bucket_state *x = &a->state[a->in_force], *y = &b->state[b->in_force];
    return x->credit == y->credit && x->burst_credit == y->burst_credit && x->pace == y->pace &&
           x->last_ns == y->last_ns;
}

/* What it should be after so many operations. */
struct expected {
    struct meter meter;
    struct bucket bucket;
};

/* One look at the child's memory. Returns whether the I/O under way shows. */
static bool look(const struct stage *s, const struct expected *before, const struct expected *after,
                 struct meter *scratch)
{
    memcpy(scratch, &s->meter, sizeof(*scratch));
    meter_repair(scratch);
    assert_histograms_add_up(scratch);
    bool old = meter_equal(scratch, &before->meter), new = meter_equal(scratch, &after->meter);
    assert_true(old || new);
    meter_repair(scratch); /* once more changes nothing */
    assert_true(meter_equal(scratch, old ? &before->meter : &after->meter));
    struct bucket b = s->bucket;
    uint64_t now = s->bucket.state[s->bucket.in_force & 1].last_ns;
    bucket_adopt(&b, &rate, now);
    assert_true(bucket_equal(&b, &before->bucket) || bucket_equal(&b, &after->bucket));
    return new && !old;
}

static void killed_between_any_two_instructions(void **state)
{
    (void)state;
    struct stage *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                           0);
    assert_ptr_not_equal(s, MAP_FAILED);
    bucket_init(&s->bucket, &rate, 0);
    struct expected *e = calloc(OPERATIONS + 1, sizeof(*e));
    struct meter *scratch = calloc(1, sizeof(*scratch)), *running = calloc(1, sizeof(*running));
    assert_true(e && scratch && running);
    struct bucket b = s->bucket;
    e[0].bucket = b;
    for (uint32_t i = 0; i < OPERATIONS; i++) {
        meter_operation(running, i);
        bucket_operation(&b, i);
        e[i + 1].meter = *running;
        meter_repair(&e[i + 1].meter); /* what is in flight counts as dropped */
        e[i + 1].bucket = b;
    }
    pid_t pid = fork();
    if (pid == 0)
        child(s);
    int status;
    uint32_t steps = 0, after = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    bool traced = WIFSTOPPED(status);
    while (traced && steps < STEPS_MAX) {
        traced = ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) == 0;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (!WIFSTOPPED(status))
            break;
        steps++;
        uint32_t now = s->begun;
        if (now > 0)
            after += look(s, &e[now - 1], &e[now], scratch);
    }
    bool ended = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!WIFEXITED(status)) {
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
    }
    bool allowed = WIFEXITED(status) && WEXITSTATUS(status) != 77 && steps > 0;
    munmap(s, sizeof(*s));
    free(e);
    free(scratch);
    free(running);
    if (!allowed)
        skip();
    assert_true(ended);
    print_message("looked after each of %u instructions\n", steps);
    assert_true(after > OPERATIONS); /* it did see changes under way, and complete */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_between_any_two_instructions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
