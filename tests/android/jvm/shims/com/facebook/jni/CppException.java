package com.facebook.jni;

/** An exception of C++ that reached Java. */
public class CppException extends RuntimeException {
    public CppException(String message) {
        super(message);
    }
}
