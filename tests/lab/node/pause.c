/* The sandbox process of a pod: waits for ever, ends at once when told to. */
#include <signal.h>
#include <unistd.h>

int main(void)
{
    signal(SIGTERM, _exit);
    signal(SIGINT, _exit);
    for (;;)
        pause();
}
