package com.facebook.jni;

/** Something else than an exception that C++ threw. */
public final class UnknownCppException extends CppException {
    public UnknownCppException() {
        super("unknown");
    }

    public UnknownCppException(String message) {
        super(message);
    }
}
