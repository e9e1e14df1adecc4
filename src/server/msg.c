/* SPDX-License-Identifier: Apache-2.0 */
#include "server/msg.h"

#include <stddef.h>

const char *msg_kind_name(unsigned kind)
{
    static const char *const names[MSG_KIND_COUNT] = {
        [MSG_NONE] = "none",
#define X(name, label) [MSG_##name] = label,
        MSG_TABLE(X)
#undef X
    };
    return kind < MSG_KIND_COUNT ? names[kind] : "unknown";
}
