/* id: random names and the texts of credentials. */
#ifndef REEVE_BASE_CORE_ID_H
#define REEVE_BASE_CORE_ID_H

#include "base/core/clock.h"
#include "base/core/slice.h"

/* "<prefix>_" + 26 characters of [a-z2-7]: 128 random bits + padding bits zero. */
#define ID_TEXT_MAX 40
void id_new(const struct rnd *r, const char *prefix, char out[ID_TEXT_MAX]);
bool id_is_valid(struct slice s, const char *prefix);

/* Names of namespaces and workspaces: [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])? */
#define NAME_MAX_BYTES 63
bool name_is_valid(struct slice s);

/* A credential's text: "<kind>_<id>_<secret>", id 16 characters of [a-z2-7], secret 43 of base64url
 * (256 random bits). kind is "rvk" or "rvs". Stored only as SHA-256 of the whole text. */
#define TOKEN_TEXT_MAX 80
#define TOKEN_ID_MAX   20
void token_new(const struct rnd *r, const char *kind, struct slice id, char out[TOKEN_TEXT_MAX]);
void token_id_new(const struct rnd *r, char out[TOKEN_ID_MAX]);
/* Splits "<kind>_<id>_<secret>"; 0 or E_INVALID. The slices point into `text`. */
int token_split(struct slice text, const char *kind, struct slice *ret_id);

/* An LLM key of a workspace: "sk-reeve-" + 43 characters of base64url. */
#define LLM_KEY_TEXT_MAX 64
void llm_key_new(const struct rnd *r, char out[LLM_KEY_TEXT_MAX]);

#endif
