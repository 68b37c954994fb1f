/* Android's liblog, on standard error: warnings and worse. */

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

int __android_log_vprint(int level, const char *tag, const char *format, va_list rest) {
    if (level < 5) return 0;
    fprintf(stderr, "%s: ", tag ? tag : "");
    vfprintf(stderr, format, rest);
    return fputc('\n', stderr) != EOF;
}

int __android_log_print(int level, const char *tag, const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    int written = __android_log_vprint(level, tag, format, rest);
    va_end(rest);
    return written;
}

int __android_log_write(int level, const char *tag, const char *text) {
    return __android_log_print(level, tag, "%s", text);
}

void __android_log_assert(const char *what, const char *tag, const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    __android_log_vprint(7, tag, format ? format : what, rest);
    va_end(rest);
    abort();
}
