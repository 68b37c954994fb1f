package com.facebook.jni;

/** A function of C++ that Java runs. */
public final class NativeRunnable implements Runnable {
    private final HybridData mHybridData;

    private NativeRunnable(HybridData data) {
        mHybridData = data;
    }

    @Override
    public native void run();
}
