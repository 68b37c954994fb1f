/* What Android's C library has and glibc has not, or has with another ABI.

   bridge.py makes a libc.so of this file whose other functions jump to glibc's. Names here begin with
   `bionic_`; the bridge exports them without it. Numbers are those of Android's public headers. */

#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <unistd.h>
#include <wchar.h>

int __xpg_strerror_r(int number, char *buffer, size_t size);

int *bionic___errno(void) { return &errno; }

void bionic___assert2(const char *file, int line, const char *function, const char *what) {
    fprintf(stderr, "%s:%d: %s: %s\n", file, line, function, what);
    abort();
}

void bionic_android_set_abort_message(const char *message) { fprintf(stderr, "%s\n", message); }

int bionic___system_property_get(const char *name, char *value) {
    (void)name;
    value[0] = 0;
    return 0;
}

/* Android's strerror_r is that of POSIX; the GNU one has a name of its own there. */
int bionic_strerror_r(int number, char *buffer, size_t size) {
    return __xpg_strerror_r(number, buffer, size);
}
char *bionic___gnu_strerror_r(int number, char *buffer, size_t size) {
    return strerror_r(number, buffer, size);
}

size_t bionic___strlen_chk(const char *text, size_t size) { (void)size; return strlen(text); }
char *bionic___strchr_chk(const char *text, int c, size_t size) { (void)size; return strchr(text, c); }
char *bionic___strrchr_chk(const char *text, int c, size_t size) { (void)size; return strrchr(text, c); }
ssize_t bionic___write_chk(int fd, const void *data, size_t count, size_t size) {
    (void)size;
    return write(fd, data, count);
}
void bionic___FD_SET_chk(int fd, fd_set *set, size_t size) { (void)size; FD_SET(fd, set); }
int bionic___FD_ISSET_chk(int fd, const fd_set *set, size_t size) {
    (void)size;
    return FD_ISSET(fd, set) != 0;
}

/* A set of signals has 64 bits on Android, 1024 in glibc. */
int bionic_sigfillset(unsigned long *set) { *set = ~0UL; return 0; }

long bionic_sysconf(int name) {
    switch (name) {
        case 39: case 40: return sysconf(_SC_PAGESIZE);
        case 96: return sysconf(_SC_NPROCESSORS_CONF);
        case 97: return sysconf(_SC_NPROCESSORS_ONLN);
        case 98: return sysconf(_SC_PHYS_PAGES);
        case 99: return sysconf(_SC_AVPHYS_PAGES);
        default: errno = EINVAL; return -1;
    }
}

/* Libraries for old Androids take the standard streams from an array of these three structures. */
#define STREAM_BYTES 152
extern char export___sF[3 * STREAM_BYTES];

static FILE *stream(void *file) {
    long offset = (char *)file - export___sF;
    if (offset < 0 || offset >= 3 * STREAM_BYTES) return file;
    return offset < STREAM_BYTES ? stdin : offset < 2 * STREAM_BYTES ? stdout : stderr;
}

int bionic_fflush(void *file) { return fflush(file ? stream(file) : NULL); }
int bionic_ferror(void *file) { return ferror(stream(file)); }
int bionic_fputc(int c, void *file) { return fputc(c, stream(file)); }
int bionic_fputs(const char *text, void *file) { return fputs(text, stream(file)); }
int bionic_getc(void *file) { return getc(stream(file)); }
int bionic_ungetc(int c, void *file) { return ungetc(c, stream(file)); }
wint_t bionic_fputwc(wchar_t c, void *file) { return fputwc(c, stream(file)); }
wint_t bionic_getwc(void *file) { return getwc(stream(file)); }
wint_t bionic_ungetwc(wint_t c, void *file) { return ungetwc(c, stream(file)); }
size_t bionic_fwrite(const void *data, size_t size, size_t count, void *file) {
    return fwrite(data, size, count, stream(file));
}
size_t bionic_fread(void *data, size_t size, size_t count, void *file) {
    return fread(data, size, count, stream(file));
}
int bionic_vfprintf(void *file, const char *format, va_list rest) {
    return vfprintf(stream(file), format, rest);
}
int bionic_fprintf(void *file, const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    int written = vfprintf(stream(file), format, rest);
    va_end(rest);
    return written;
}
