/* SPDX-License-Identifier: Apache-2.0 */
/* simulate: what would happen, from a scenario file; no server is asked. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/text.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/yaml.h"
#include "sim/plot.h"
#include "sim/scenario.h"
#include "sim/sim.h"

#define OUTPUT_MAX (64u * 1024u * 1024u)
#define PATH_MAX_  1024u

static bool scheme_of(const char *name, enum sim_scheme *ret)
{
    for (int i = SIM_OURS; i <= SIM_ORACLE; i++)
        if (strcmp(sim_scheme_name((enum sim_scheme)i), name) == 0) {
            *ret = (enum sim_scheme)i;
            return true;
        }
    return false;
}

static double seconds_of(const struct scenario *s)
{
    return (double)(s->config.duration_ns - s->config.warmup_ns) / 1e9;
}

static double quantile_us(const struct hist *h, double q)
{
    return h->count > 0 ? (double)hist_quantile(h, q) / 1e3 : 0;
}

static double percent_met(const struct sim_load_result *r)
{
    return r->windows > 0 ? 100.0 * r->windows_met / r->windows : 100.0;
}

/* ---- table ----------------------------------------------------------------------------------- */

static void table_load(struct text *out, const struct scenario *s, const struct sim_result *r,
                       size_t i)
{
    const struct sim_load_config *l = &s->load[i];
    const struct sim_load_result *x = &r->load[i];
    char key[STREAM_KEY_SIZE], p50[32], p99[32], objective[32] = "-", met[32] = "-", rate[32];
    name_stream_key(l->host, l->volume, key);
    units_format_latency_us((uint64_t)quantile_us(&x->judged, 0.5), p50, sizeof p50);
    units_format_latency_us((uint64_t)quantile_us(&x->judged, 0.99), p99, sizeof p99);
    units_format_bandwidth((uint64_t)((double)x->bytes / seconds_of(s)), rate, sizeof rate);
    if (l->objective_us > 0) {
        units_format_latency_us(l->objective_us, objective, sizeof objective);
        snprintf(met, sizeof met, "%.1f%%", percent_met(x));
    }
    text_printf(out, "%-28s %7u  %9.0f  %11s  %8s  %8s  %9s  %7s\n", key, l->gateway + 1,
                (double)x->served / seconds_of(s), rate, p50, p99, objective, met);
}

static void table(struct text *out, const struct scenario *s, const struct sim_result *r)
{
    text_printf(out, "%-28s %7s  %9s  %11s  %8s  %8s  %9s  %7s\n", "STREAM", "GATEWAY", "IOPS",
                "BANDWIDTH", "P50", "P99", "OBJECTIVE", "MET");
    for (size_t i = 0; i < r->load_count; i++)
        table_load(out, s, r, i);
    text_printf(out, "\n%-28s %9s  %6s  %6s  %11s\n", "TARGET", "IOPS", "BUSY", "SLOTS",
                "PARALLELISM");
    for (size_t i = 0; i < r->device_count; i++) {
        const struct sim_device_result *d = &r->device[i];
        text_printf(out, "%-28s %9.0f  %5.0f%%  %6.1f  %11.1f\n", s->device[i].name,
                    (double)d->served / seconds_of(s), 100.0 * d->busy / s->device[i].servers,
                    d->slots, d->parallelism);
    }
    text_printf(out, "\n%llu actions, %llu of them enforced; %llu early warnings\n",
                (unsigned long long)r->actions, (unsigned long long)r->actions_enforced,
                (unsigned long long)r->surges);
    for (size_t i = 0; i < r->action_count && i < 20; i++)
        text_printf(out, "  %s\n", r->action[i].reason);
    if (r->action_count > 20)
        text_printf(out, "  ... -o json has %zu\n", r->action_count);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *seconds_json(const uint32_t *v, uint32_t n)
{
    json_t *a = json_array();
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(a, json_integer(v[i]));
    return a;
}

static json_t *load_json(const struct scenario *s, const struct sim_result *r, size_t i)
{
    const struct sim_load_config *l = &s->load[i];
    const struct sim_load_result *x = &r->load[i];
    char key[STREAM_KEY_SIZE];
    name_stream_key(l->host, l->volume, key);
    json_t *j = json_object();
    json_object_set_new(j, "stream", json_string(key));
    json_object_set_new(j, "gateway", json_integer(l->gateway + 1));
    json_object_set_new(j, "target", json_string(s->device[l->device].name));
    json_object_set_new(j, "iops", json_real((double)x->served / seconds_of(s)));
    json_object_set_new(j, "bytesPerSecond", json_real((double)x->bytes / seconds_of(s)));
    json_object_set_new(j, "meanUs", json_real((double)hist_mean(&x->judged) / 1e3));
    json_object_set_new(j, "p50Us", json_real(quantile_us(&x->judged, 0.5)));
    json_object_set_new(j, "p99Us", json_real(quantile_us(&x->judged, 0.99)));
    json_object_set_new(j, "p999Us", json_real(quantile_us(&x->judged, 0.999)));
    json_object_set_new(j, "lost", json_integer((json_int_t)x->failed));
    if (l->objective_us > 0) {
        json_object_set_new(j, "objectiveUs", json_integer((json_int_t)l->objective_us));
        json_object_set_new(j, "windows", json_integer(x->windows));
        json_object_set_new(j, "windowsMet", json_integer(x->windows_met));
    }
    bool by_second = x->interval_ns == UINT64_C(1000000000);
    json_object_set_new(j, by_second ? "iopsBySecond" : "iopsByInterval",
                        seconds_json(x->iops, x->seconds));
    json_object_set_new(j, by_second ? "p99UsBySecond" : "p99UsByInterval",
                        seconds_json(x->p99_us, x->seconds));
    return j;
}

static json_t *result_json(const struct scenario *s, const struct sim_result *r)
{
    json_t *j = json_object(), *loads = json_array(), *targets = json_array(),
           *actions = json_array();
    for (size_t i = 0; i < r->load_count; i++)
        json_array_append_new(loads, load_json(s, r, i));
    for (size_t i = 0; i < r->device_count; i++) {
        const struct sim_device_result *d = &r->device[i];
        json_array_append_new(targets,
                              json_pack("{s:s, s:f, s:f, s:f, s:f}", "name", s->device[i].name,
                                        "iops", (double)d->served / seconds_of(s), "busyServers",
                                        d->busy, "slots", d->slots, "parallelism", d->parallelism));
    }
    for (size_t i = 0; i < r->action_count; i++) {
        const struct action_record *a = &r->action[i];
        json_array_append_new(actions,
                              json_pack("{s:s, s:s, s:b, s:s, s:s}", "verb", a->verb, "decision",
                                        a->decision, "enforced", (int)a->enforced, "bully",
                                        a->bully, "reason", a->reason));
    }
    json_object_set_new(j, "scheme", json_string(sim_scheme_name(s->config.scheme)));
    json_object_set_new(j, "seed", json_integer((json_int_t)s->config.seed));
    json_object_set_new(j, "loads", loads);
    json_object_set_new(j, "targets", targets);
    json_object_set_new(j, "actions", actions);
    json_object_set_new(j, "surges", json_integer((json_int_t)r->surges));
    json_object_set_new(j, "events", json_integer((json_int_t)r->events));
    return j;
}

/* ---- plots ----------------------------------------------------------------------------------- */

static enum cli_exit plot(const char *prefix, const char *what, const char *unit,
                          const struct scenario *s, const struct sim_result *r, bool latency)
{
    struct plot_series series[PLOT_SERIES_MAX];
    struct text out;
    char path[PATH_MAX_];
    size_t n = r->load_count < PLOT_SERIES_MAX ? r->load_count : PLOT_SERIES_MAX;
    double line = 0;
    for (size_t i = 0; i < n; i++) {
        char key[STREAM_KEY_SIZE];
        name_stream_key(s->load[i].host, s->load[i].volume, key);
        (void)text_copy(series[i].name, sizeof series[i].name, key);
        series[i].value = latency ? r->load[i].p99_us : r->load[i].iops;
        /* The last one is of the instant at which the run ended. */
        series[i].count = r->load[i].seconds - 1;
        if (latency && s->load[i].objective_us > 0)
            line = (double)s->load[i].objective_us;
    }
    snprintf(path, sizeof path, "%s-%s.svg", prefix, what);
    text_init(&out, OUTPUT_MAX);
    plot_lines(&out, what, unit, series, n, (double)r->load[0].interval_ns / 1e9, line);
    int e = out.failed ? -ENOMEM : text_write_file_atomic(path, out.data, out.len, 0644);
    text_fini(&out);
    return e < 0 ? cli_fail(CLI_DIFFERENT, "%s: %s", path, weir_strerror(e)) : CLI_OK;
}

/* ---- the verb -------------------------------------------------------------------------------- */

static enum cli_exit show(struct cli *c, const struct scenario *s, const struct sim_result *r)
{
    struct text out;
    enum cli_exit e = CLI_OK;
    text_init(&out, OUTPUT_MAX);
    if (c->o.output == OUTPUT_JSON) {
        json_t *j = result_json(s, r);
        char *text = json_dumps(j, JSON_INDENT(1) | JSON_REAL_PRECISION(7));
        text_append_str(&out, text != NULL ? text : "");
        text_append_str(&out, "\n");
        free(text);
        json_decref(j);
    } else {
        table(&out, s, r);
    }
    cli_put(&out);
    text_fini(&out);
    if (c->o.plot != NULL)
        e = plot(c->o.plot, "p99", "us", s, r, true);
    if (c->o.plot != NULL && e == CLI_OK)
        e = plot(c->o.plot, "iops", "1/s", s, r, false);
    return e;
}

static enum cli_exit run(struct cli *c, struct scenario *s)
{
    struct sim_result r;
    struct text why;
    text_init(&why, OUTPUT_MAX);
    if (c->o.limit > 0)
        s->config.seed = c->o.limit;
    enum cli_exit e = CLI_OK;
    if (c->o.scheme != NULL && !scheme_of(c->o.scheme, &s->config.scheme))
        e = cli_fail(CLI_USAGE, "--scheme %s: `weir help simulate` lists them", c->o.scheme);
    if (e == CLI_OK && sim_run(&s->config, &r, &why) < 0)
        e = cli_fail(CLI_USAGE, "%s: %.*s", c->args[0], (int)why.len, why.len > 0 ? why.data : "");
    if (e == CLI_OK) {
        e = show(c, s, &r);
        if (r.broken != NULL)
            e = cli_fail(CLI_DIFFERENT,
                         "a rule was broken at %.3f s: %s; replay: weir simulate %s --seed %llu "
                         "--scheme %s",
                         (double)r.broken_ns / 1e9, r.broken, c->args[0],
                         (unsigned long long)s->config.seed, sim_scheme_name(s->config.scheme));
        sim_result_fini(&r);
    }
    text_fini(&why);
    return e;
}

/* Each line of @errors behind the file's name. */
static enum cli_exit fail_lines(const char *path, struct text *errors)
{
    text_append(errors, "", 1);
    char *save = NULL, *line = strtok_r(errors->len > 0 ? errors->data : NULL, "\n", &save);
    for (; line != NULL; line = strtok_r(NULL, "\n", &save))
        (void)cli_fail(CLI_USAGE, "%s: %s", path, line);
    return CLI_USAGE;
}

enum cli_exit cli_simulate(struct cli *c)
{
    const char *path = c->args[0], *slash = strrchr(path, '/');
    char folder[PATH_MAX_] = "", *data = NULL;
    size_t size = 0, count = 0;
    struct yaml_document *docs = NULL;
    struct text errors;
    if (slash != NULL && (size_t)(slash - path) < sizeof folder)
        memcpy(folder, path, (size_t)(slash - path));
    int r = text_read_file(path, YAML_BYTES_MAX, &data, &size);
    if (r < 0)
        return cli_fail(CLI_USAGE, "%s: %s", path, weir_strerror(r));
    text_init(&errors, OUTPUT_MAX);
    enum cli_exit e = CLI_OK;
    if (yaml_parse(path, data, size, &docs, &count, &errors) < 0)
        e = cli_fail(CLI_USAGE, "%.*s", (int)errors.len, errors.len > 0 ? errors.data : "");
    free(data);
    if (e == CLI_OK) {
        struct scenario s;
        json_t **values = calloc(count + 1, sizeof(json_t *));
        weir_assert(values != NULL);
        for (size_t i = 0; i < count; i++)
            values[i] = docs[i].value;
        if (scenario_read(&s, values, count, folder, &errors) < 0) {
            e = fail_lines(path, &errors);
        } else {
            e = run(c, &s);
            scenario_fini(&s);
        }
        free(values);
        yaml_free(docs, count);
    }
    text_fini(&errors);
    return e;
}
