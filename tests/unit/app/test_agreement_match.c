/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: two agreements conflict exactly when they name the same fields and can select one stream.
 * Method: pairs worked out by hand; then random patterns over a tiny alphabet, compared with trying
 * every name of up to four characters against name_match. */
#include "server/services/agreement_match.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../seed.h"
#include "base/rng.h"

static struct agreement agreement(const char *name, const char *host, const char *volume)
{
    struct agreement a = {.weight = 100};
    strcpy(a.name, name);
    strcpy(a.applies_to.host, host);
    strcpy(a.applies_to.volume, volume);
    return a;
}

static void globs_meet_when_one_name_fits_both(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b;
        bool meet;
    } cases[] = {
        {"db", "db", true},
        {"db", "db2", false},
        {"db-*", "*-1", true},
        {"db-*", "db-?", true},
        {"a*b", "b*a", false},
        {"*", "anything", true},
        {"[a-c]x", "[d-f]x", false},
        {"[a-c]x", "cx", true},
        {"[!a]x", "ax", false},
        {"a[", "a[", true},
        {"\\*", "\\*", true},
        {"\\*", "a", false},
        {"a*c*e", "abcde", true},
        {"a*c*e", "abde", false},
        {"**", "", true},
        {"?", "", false},
        {"*a*", "*b*", true},
        {"10.0.0.*", "10.0.1.*", false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        bool ab = agreement_patterns_meet(cases[i].a, cases[i].b);
        bool ba = agreement_patterns_meet(cases[i].b, cases[i].a);
        if (ab != cases[i].meet || ba != cases[i].meet)
            fail_msg("%s and %s: %d, %d", cases[i].a, cases[i].b, ab, ba);
    }
}

static bool some_name_fits(const char *a, const char *b)
{
    char name[5];
    for (unsigned length = 0; length <= 4; length++) {
        for (unsigned bits = 0; bits < (1u << length); bits++) {
            for (unsigned k = 0; k < length; k++)
                name[k] = (bits >> k & 1) ? 'b' : 'a';
            name[length] = '\0';
            if (name_match(a, name) && name_match(b, name))
                return true;
        }
    }
    return false;
}

static void random_pattern(struct rng *r, char out[5])
{
    static const char letters[] = "ab*?";
    size_t n = rng_below(r, 5);
    for (size_t i = 0; i < n; i++)
        out[i] = letters[rng_below(r, 4)];
    out[n] = '\0';
}

static void random_globs_agree_with_trying_every_name(void **state)
{
    (void)state;
    struct rng r;
    rng_seed(&r, test_seed());
    unsigned met = 0;
    for (int i = 0; i < 20000; i++) {
        char a[5], b[5];
        random_pattern(&r, a);
        random_pattern(&r, b);
        bool meet = agreement_patterns_meet(a, b), tried = some_name_fits(a, b);
        met += meet;
        /* Of two patterns with stars the shortest common name may be longer than those tried. */
        if (tried && !meet)
            fail_msg("%s and %s meet, not found", a, b);
        if (!tried && meet && !(strchr(a, '*') && strchr(b, '*')))
            fail_msg("%s and %s do not meet", a, b);
    }
    assert_in_range(met, 1, 19999);
}

static void equal_rank_and_a_common_stream_conflict(void **state)
{
    (void)state;
    struct agreement gold = agreement("gold", "", "db-*"), silver = agreement("silver", "", "*-1");
    assert_true(agreement_conflicts(&gold, &silver));
    assert_true(agreement_conflicts(&silver, &gold));
    struct agreement bronze = agreement("bronze", "", "log");
    assert_false(agreement_conflicts(&gold, &bronze));
}

static void a_more_specific_agreement_does_not_conflict(void **state)
{
    (void)state;
    struct agreement gold = agreement("gold", "", "db-*"),
                     one = agreement("one", "10.0.0.7", "db-*");
    assert_false(agreement_conflicts(&gold, &one));
    struct agreement all = agreement("all", "", ""), every = agreement("every", "", "");
    assert_true(agreement_conflicts(&all, &every));
}

static void an_agreement_never_conflicts_with_its_own_older_version(void **state)
{
    (void)state;
    struct agreement old = agreement("gold", "", "db-*"), new = agreement("gold", "", "db*");
    assert_false(agreement_conflicts(&old, &new));
}

static struct tenant tenant(const char *name, const char *volume, uint64_t iops)
{
    struct tenant t = {.member_count = 1};
    strcpy(t.name, name);
    strcpy(t.member[0].volume, volume);
    t.limits.rate[GATE_IOPS_TOTAL].rate = iops;
    return t;
}

static void a_reservation_above_the_limit_of_its_tenant_is_refused_with_both_names(void **state)
{
    (void)state;
    char words[256];
    struct tenant acme = tenant("acme", "db-*", 1000);
    struct agreement a = agreement("gold", "", "*");
    strcpy(a.applies_to.tenant, "acme");
    a.reservation_iops = 1000;
    assert_false(agreement_beyond_tenant(&a, &acme, words, sizeof(words)));
    a.reservation_iops = 1001;
    assert_true(agreement_beyond_tenant(&a, &acme, words, sizeof(words)));
    assert_non_null(strstr(words, "gold"));
    assert_non_null(strstr(words, "acme"));
    strcpy(a.applies_to.tenant, "other");
    assert_false(agreement_beyond_tenant(&a, &acme, words, sizeof(words)));
    strcpy(a.applies_to.tenant, "a*"); /* others too */
    assert_false(agreement_beyond_tenant(&a, &acme, words, sizeof(words)));
    /* No tenant is named: by its members, when these surely take all that is selected. */
    struct agreement one = agreement("one", "", "db-1");
    one.reservation_read_iops = one.reservation_write_iops = 600; /* together too much */
    assert_true(agreement_beyond_tenant(&one, &acme, words, sizeof(words)));
    strcpy(one.applies_to.volume, "*-1");
    assert_false(agreement_beyond_tenant(&one, &acme, words, sizeof(words)));
    strcpy(one.applies_to.volume, "db-*");
    strcpy(acme.member[0].host, "10.0.0.1"); /* this host only */
    assert_false(agreement_beyond_tenant(&one, &acme, words, sizeof(words)));
    strcpy(one.applies_to.host, "10.0.0.1");
    assert_true(agreement_beyond_tenant(&one, &acme, words, sizeof(words)));
    acme.limits.rate[GATE_IOPS_TOTAL].rate = 0; /* no limit */
    assert_false(agreement_beyond_tenant(&one, &acme, words, sizeof(words)));
    acme.limits.rate[GATE_IOPS_WRITE].rate = 599;
    assert_true(agreement_beyond_tenant(&one, &acme, words, sizeof(words)));
}

static void reads_and_writes_reserved_add_up_against_a_limit_of_both(void **state)
{
    (void)state;
    struct agreement wide = agreement("wide", "", ""), narrow = agreement("narrow", "", "db");
    wide.limits.rate[GATE_BYTES_TOTAL].rate = 1000;
    narrow.reservation_read_bytes_s = narrow.reservation_write_bytes_s = 500;
    assert_false(agreement_contradicts(&wide, &narrow));
    narrow.reservation_read_bytes_s = 501;
    assert_true(agreement_contradicts(&wide, &narrow));
    assert_true(agreement_contradicts(&narrow, &wide));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(globs_meet_when_one_name_fits_both),
        cmocka_unit_test(random_globs_agree_with_trying_every_name),
        cmocka_unit_test(equal_rank_and_a_common_stream_conflict),
        cmocka_unit_test(a_more_specific_agreement_does_not_conflict),
        cmocka_unit_test(an_agreement_never_conflicts_with_its_own_older_version),
        cmocka_unit_test(a_reservation_above_the_limit_of_its_tenant_is_refused_with_both_names),
        cmocka_unit_test(reads_and_writes_reserved_add_up_against_a_limit_of_both),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
