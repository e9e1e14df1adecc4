/* SPDX-License-Identifier: Apache-2.0 */
#include "server/store/render.h"

#include <stdio.h>

#include "base/clock.h"

json_t *render_wall(int64_t wall_us)
{
    char text[32];
    clock_format_wall(wall_us, text, sizeof(text));
    return json_string(text);
}

json_t *render_text(const char *s)
{
    return s[0] == '\0' ? json_null() : json_string(s);
}

/* What has no limit is null. */
static json_t *render_rate(uint64_t n)
{
    return n > INT64_MAX ? json_null() : json_integer((json_int_t)n);
}

static json_t *render_count(uint64_t n)
{
    return json_integer(n > INT64_MAX ? INT64_MAX : (json_int_t)n);
}

static json_t *render_ppm(uint32_t ppm)
{
    return ppm % 10000 == 0 ? json_integer(ppm / 10000) : json_real(ppm / 10000.0);
}

json_t *render_action(const struct action_record *a)
{
    return json_pack(
        "{s:s, s:b, s:s, s:s, s:s, s:o, s:s, s:o, s:o, s:o, s:{s:o, s:o}, s:{s:o, s:o},"
        " s:o, s:o, s:o, s:o, s:o, s:o, s:s}",
        "verb", a->verb, "enforced", a->enforced, "decision", a->decision, "target", a->target,
        "gateway", a->gateway, "victim", render_text(a->victim), "bully", a->bully, "agreement",
        render_text(a->agreement), "agreementVersion", render_count(a->agreement_version), "policy",
        render_text(a->policy), "from", "iops", render_rate(a->from_iops), "bandwidth",
        render_rate(a->from_bytes_s), "to", "iops", render_rate(a->to_iops), "bandwidth",
        render_rate(a->to_bytes_s), "victimLatencyUs", render_count(a->victim_latency_us),
        "objectiveUs", render_count(a->victim_objective_us), "percentile",
        render_ppm(a->victim_percentile_ppm), "victimIops", render_count(a->victim_iops),
        "bullyIops", render_count(a->bully_iops), "harmPercent", render_ppm(a->harm_share_ppm),
        "reason", a->reason);
}

json_t *render_event(uint64_t id, const struct event_record *e)
{
    char text[24];
    snprintf(text, sizeof(text), "%llu", (unsigned long long)id);
    return json_pack("{s:s, s:o, s:s, s:s, s:s, s:s}", "id", text, "at", render_wall(e->wall_us),
                     "severity", event_severity_name(e->severity), "kind", e->kind, "subject",
                     e->subject, "text", e->text);
}

static json_t *per_second(uint64_t n, uint32_t interval_ms)
{
    return json_integer(interval_ms == 0 ? 0
                                         : (json_int_t)((double)n * 1000.0 / interval_ms + 0.5));
}

json_t *render_sample(const struct sample_record *s)
{
    char key[STREAM_KEY_SIZE];
    name_stream_key(s->host, s->volume, key);
    return json_pack(
        "{s:o, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "at",
        render_wall(s->wall_us), "gateway", s->gateway, "stream", key, "iops",
        per_second(s->read_ops + s->write_ops, s->interval_ms), "readIops",
        per_second(s->read_ops, s->interval_ms), "writeIops",
        per_second(s->write_ops, s->interval_ms), "readBytesPerSecond",
        per_second(s->read_bytes, s->interval_ms), "writeBytesPerSecond",
        per_second(s->write_bytes, s->interval_ms), "errors", render_count(s->errors), "held",
        render_count(s->held_ops), "p50Us", render_count(s->p50_us), "p99Us",
        render_count(s->p99_us), "maxUs", render_count(s->max_us), "heldP99Us",
        render_count(s->held_p99_us), "targetP99Us", render_count(s->target_p99_us), "inflight",
        render_count(s->inflight));
}
