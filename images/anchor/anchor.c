/*
 * The anchor owns a network namespace and does nothing: it waits until it is told to stop.
 *
 * No C library, so that the whole program is a few hundred bytes. The first process of a container gets only signals
 * that it asked for; blocking them and waiting for one is the shortest way to ask.
 */

enum { SIGNAL_INT = 2, SIGNAL_TERM = 15, BLOCK = 0, SET_SIZE = 8 };

#if defined(__x86_64__)
enum { SYS_EXIT = 60, SYS_SIGPROCMASK = 14, SYS_SIGTIMEDWAIT = 128 };

static long call(long number, long a, long b, long c, long d)
{
    long result;
    register long fourth __asm__("r10") = d;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
enum { SYS_EXIT = 93, SYS_SIGPROCMASK = 135, SYS_SIGTIMEDWAIT = 137 };

static long call(long number, long a, long b, long c, long d)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
}
#else
#error "no system calls for this machine"
#endif

void _start(void)
{
    const unsigned long stop = 1UL << (SIGNAL_INT - 1) | 1UL << (SIGNAL_TERM - 1);

    call(SYS_SIGPROCMASK, BLOCK, (long)&stop, 0, SET_SIZE);
    while (call(SYS_SIGTIMEDWAIT, (long)&stop, 0, 0, SET_SIZE) < 0)
        ;
    call(SYS_EXIT, 0, 0, 0, 0);
    __builtin_unreachable();
}
