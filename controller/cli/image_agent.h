/* image_agent: the agents that `reeve image build` knows how to put into an image. */
#ifndef REEVE_CONTROLLER_CLI_IMAGE_AGENT_H
#define REEVE_CONTROLLER_CLI_IMAGE_AGENT_H

#include "controller/cli/tar.h"

struct image_agent {
    char name[64];
    char *folder;      /* on this machine; owned; NULL: the server has this agent itself */
    bool is_temporary; /* ours to remove */
};
#define IMAGE_AGENTS_MAX 16

/* "claude" or "NAME=FOLDER". 0, or E_INVALID saying what is known. */
int image_agent_parse(struct slice text, struct image_agent *ret, struct err *err);
/* Fetches what is not given as a folder, by npm, into a temporary folder. 0, E_UNAVAILABLE (no npm),
 * E_UPSTREAM (npm failed; its own words went to stderr), E_INVALID (the folder has not what it should). */
int image_agent_prepare(struct image_agent *a, struct err *err);
/* Its files and launchers, as root's. */
int image_agent_add(const struct image_agent *a, struct tar *t, struct err *err);
void image_agent_fini(struct image_agent *a);

#endif
