/* SPDX-License-Identifier: Apache-2.0 */
/* Error codes: 0, a negative errno of the machine, or one of Weir's own from the table below. */
#ifndef WEIR_BASE_ERR_H
#define WEIR_BASE_ERR_H

/* The one truth for codes, names and words. Own codes start beyond every errno. */
#define WEIR_ERR_TABLE(X)                                         \
    X(PROTO, 5001, "the peer broke the protocol")                 \
    X(VERSION, 5002, "no protocol version in common")             \
    X(AUTH, 5003, "the peer could not be authenticated")          \
    X(TOO_LARGE, 5004, "larger than its bound")                   \
    X(PARSE, 5005, "could not be parsed")                         \
    X(INVALID, 5006, "not a valid value")                         \
    X(NOT_FOUND, 5007, "not found")                               \
    X(EXISTS, 5008, "exists already")                             \
    X(CONFLICT, 5009, "changed by somebody else meanwhile")       \
    X(CLOSED, 5010, "closed by the peer")                         \
    X(TIMEOUT, 5011, "took longer than its bound")                \
    X(FULL, 5012, "a bounded place is full")                      \
    X(UNAVAILABLE, 5013, "not available now, try again")          \
    X(REFUSED, 5014, "refused by policy")

enum weir_err {
#define X(name, code, words) WEIR_E_##name = -(code),
    WEIR_ERR_TABLE(X)
#undef X
};

/* Words for @code (0, -errno or enum weir_err). Static or thread-local text. Any thread. */
const char *weir_strerror(int code);

/* Machine name of @code ("auth", "timeout"; "errno" for the machine's): for labels and logs. */
const char *weir_err_name(int code);

#endif
