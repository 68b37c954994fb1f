package com.facebook.jni;

/** Runs a function of C++ in a thread that Java knows. */
final class ThreadScopeSupport {
    private ThreadScopeSupport() {}

    static void runStdFunction(long pointer) {
        runStdFunctionImpl(pointer);
    }

    private static native void runStdFunctionImpl(long pointer);
}
