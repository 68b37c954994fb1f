package com.facebook.jni;

/** An error of the operating system that C++ threw. */
public final class CppSystemErrorException extends CppException {
    private final int errorCode;

    public CppSystemErrorException(String message, int errorCode) {
        super(message);
        this.errorCode = errorCode;
    }

    public int getErrorCode() {
        return errorCode;
    }
}
