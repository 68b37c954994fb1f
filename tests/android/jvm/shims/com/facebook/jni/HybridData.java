package com.facebook.jni;

/** Owns one object of C++; libfbjni sets the pointer in the destructor and frees it. */
public final class HybridData {
    static {
        System.loadLibrary("fbjni");
    }

    private final Destructor mDestructor = new Destructor();

    public synchronized void resetNative() {
        if (mDestructor.mNativePointer != 0) {
            long pointer = mDestructor.mNativePointer;
            mDestructor.mNativePointer = 0;
            Destructor.deleteNative(pointer);
        }
    }

    public boolean isValid() {
        return mDestructor.mNativePointer != 0;
    }

    /** The pointer, by the names under which C++ looks for it. */
    public static final class Destructor {
        private volatile long mNativePointer;

        static native void deleteNative(long pointer);
    }
}
