/* reeve: one daemon for a fleet of AI-agent sandboxes, and the commands that talk to it. */
#include "controller/cli/command.h"

int main(int argc, char **argv)
{
    return command_main(argc, argv);
}
