/* value: the scalars of the configuration, from their text, by the type in their row. */
#ifndef REEVE_CONFIG_VALUE_H
#define REEVE_CONFIG_VALUE_H

#include "base/core/crypto.h"
#include "config/settings.h"

/* 0; or E_INVALID with what would be right ("expected a size such as `4GiB`"). Never quotes the text. */
int value_check(const struct setting *row, struct slice text, struct err *err);

int value_bool(struct slice s, bool *ret);
int value_port(struct slice s, uint16_t *ret); /* 1 to 65535 */
int value_hash(struct slice s, unsigned char ret[SHA256_BYTES]);
int value_uid_range(struct slice s, uint32_t *ret_first, uint32_t *ret_count);
/* An IANA name that this machine knows. 0, or E_INVALID with a sentence. */
int value_zone(struct slice s, struct err *err);
/* Is `word` one of the words, separated by spaces? `words` may be NULL. */
bool choices_have(const char *words, struct slice word);
/* "`viewer`, `member` or `owner`". */
#define CHOICES_MAX 256
const char *choices_text(const struct setting *row, char out[CHOICES_MAX]);

#endif
