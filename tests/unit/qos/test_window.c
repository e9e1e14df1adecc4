/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: the window finds the device's useful parallelism, from whatever it starts with, and tells
 * servers that became slower from servers that were lost.
 * Method: a made-up device, x(n) = min(n, k) / S with noise as of so many answers, over two decades
 * of k and of S, saturated; a virtual clock in intervals of 100 ms; several seeds (of 300, each of
 * these tests holds for every one). */
#include <math.h>
#include <string.h>

#include "qos_test.h"

#include "qos/window.h"

#define SEEDS 100u

struct device {
    double k, service_ns;
    struct rng rng;
    double given, possible; /* throughput so far: with the window, and without any */
};

/* One interval of saturated work at the window in force, in whole slots as the scheduler has it. */
static void turn(struct device *d, struct window *w)
{
    const double ns = 100e6;
    double n = floor((double)w->slots_milli / 1000.0 + 0.5);
    n = n < 1 ? 1 : n;
    double servers = n < d->k ? n : d->k;
    double mean = servers * ns / d->service_ns;
    /* Twelve uniforms make a bell of variance 1; service times vary by half their mean. */
    double bell = -6;
    for (int i = 0; i < 12; i++)
        bell += rng_unit(&d->rng);
    double ios = mean + 0.5 * sqrt(mean) * bell;
    ios = ios < 0 ? 0 : ios;
    struct window_sample s = {
        .interval_ns = (uint64_t)ns,
        .busy_ns = (uint64_t)(n * ns),
        .full_ns = (uint64_t)ns,
        .cost_ns = (uint64_t)(ios * 100000), /* a cost model that is wrong */
        .ios = (uint64_t)ios,
    };
    d->given += mean;
    d->possible += d->k * ns / d->service_ns;
    window_learn(w, &s);
}

static void run(struct device *d, struct window *w, int turns)
{
    for (int i = 0; i < turns; i++)
        turn(d, w);
}

/* Mean of k over 10 s, since each search moves it a little. */
static double mean_k(struct device *d, struct window *w)
{
    double sum = 0;
    for (int i = 0; i < 100; i++) {
        turn(d, w);
        sum += w->k;
    }
    return sum / 100;
}

static void check_k(struct device *d, struct window *w)
{
    double k = mean_k(d, w);
    if (k < 0.8 * d->k || k > 1.25 * d->k)
        fail_msg("k is %.1f, found %.2f (service %.0f us)", d->k, k, d->service_ns / 1e3);
}

/* WEIR_SEED, or the first SEEDS. */
static void each_seed(void (*holds)(uint64_t seed))
{
    const char *given = getenv("WEIR_SEED");
    for (uint64_t seed = 1; seed <= SEEDS && given == NULL; seed++) {
        print_message("seed %llu\n", (unsigned long long)seed);
        holds(seed);
    }
    if (given != NULL)
        holds(strtoull(given, NULL, 0));
}

static const double ks[] = {2, 4, 8, 16, 64, 256};
static const double services[] = {100e3, 1e6, 8e6};
#define EACH(i, a) (size_t i = 0; i < sizeof(a) / sizeof(a)[0]; i++)

static void k_is_found_from_nothing_seed(uint64_t seed)
{
    struct device d = {0};
    rng_seed(&d.rng, seed);
    for
        EACH(i, ks)
        {
        for
            EACH(j, services)
            {
                struct window w;
                d.k = ks[i];
                d.service_ns = services[j];
                window_init(&w, 0);
                run(&d, &w, 400);
                check_k(&d, &w);
                d.given = d.possible = 0;
                run(&d, &w, 600);
                if (d.given < 0.94 * d.possible)
                    fail_msg("k %.0f, service %.0f us: %.3f of what is possible", d.k,
                             d.service_ns / 1e3, d.given / d.possible);
            }
        }
}

static void believed_wrong_by_two_it_is_right_within_ten_seconds_seed(uint64_t seed)
{
    struct device d = {0};
    rng_seed(&d.rng, seed);
    for
        EACH(i, ks)
        {
            for (int wrong = 0; wrong < 2; wrong++) {
                struct window w;
                d.k = ks[i];
                d.service_ns = 1e6;
                window_init(&w, (uint64_t)(d.k * (wrong ? 2000 : 500)));
                run(&d, &w, 100);
                check_k(&d, &w);
            }
        }
}

static void slower_servers_change_nothing_seed(uint64_t seed)
{
    struct device d = {0};
    rng_seed(&d.rng, seed);
    for
        EACH(i, ks)
        {
            struct window w;
            d.k = ks[i];
            d.service_ns = 500e3;
            window_init(&w, (uint64_t)(d.k * 1000));
            run(&d, &w, 200);
            check_k(&d, &w);
            d.service_ns /= 0.6;
            run(&d, &w, 100);
            check_k(&d, &w);
            d.k /= 2;
            run(&d, &w, 150);
            check_k(&d, &w);
            d.k *= 2;
            run(&d, &w, 150);
            check_k(&d, &w);
        }
}

static void k_is_found_from_nothing_and_costs_little(void **state)
{
    (void)state;
    each_seed(k_is_found_from_nothing_seed);
}

static void believed_wrong_by_two_it_is_right_within_ten_seconds(void **state)
{
    (void)state;
    each_seed(believed_wrong_by_two_it_is_right_within_ten_seconds_seed);
}

static void slower_servers_change_nothing_and_lost_ones_show(void **state)
{
    (void)state;
    each_seed(slower_servers_change_nothing_seed);
}

static void what_the_window_does_not_bound_teaches_nothing(void **state)
{
    (void)state;
    struct window w;
    window_init(&w, 8000);
    uint64_t slots = w.slots_milli;
    for (int i = 0; i < 1000; i++) {
        struct window_sample s = {.interval_ns = 100000000,
                                  .busy_ns = 200000000,
                                  .full_ns = 20000000,
                                  .cost_ns = 1,
                                  .ios = 5000};
        s.stalled = i % 7 == 0;
        if (s.stalled)
            s.full_ns = s.interval_ns;
        window_learn(&w, &s);
        assert_int_equal(w.slots_milli, slots);
    }
}

static void the_wait_is_kept_below_its_bound_and_given_back(void **state)
{
    (void)state;
    struct window w;
    window_init(&w, 8000);
    window_bound(&w, 1000000);
    struct window_sample s = {.interval_ns = 1000000000,
                              .busy_ns = 8000000000,
                              .full_ns = 1000000000,
                              .cost_ns = 8000000000,
                              .ios = 8000};
    for (int i = 0; i < 20; i++) {
        /* Its p99 follows the window: 3 ms at 10 slots. */
        s.wait_p99_ns = (uint64_t)(3e6 * (double)w.slots_milli / 10000);
        window_learn(&w, &s);
    }
    assert_in_range(w.bound_ppm, 840000, 860000); /* k, whatever the bound */
    for (int i = 0; i < 40; i++) {
        s.wait_p99_ns = 100000;
        window_learn(&w, &s);
    }
    assert_int_equal(w.bound_ppm, 1000000);
    window_bound(&w, 0);
    assert_int_equal(w.bound_ppm, 1000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(k_is_found_from_nothing_and_costs_little),
        cmocka_unit_test(believed_wrong_by_two_it_is_right_within_ten_seconds),
        cmocka_unit_test(slower_servers_change_nothing_and_lost_ones_show),
        cmocka_unit_test(what_the_window_does_not_bound_teaches_nothing),
        cmocka_unit_test(the_wait_is_kept_below_its_bound_and_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
