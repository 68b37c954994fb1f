package com.facebook.soloader.nativeloader;

/** Where ExecuTorch asks for its library. */
public final class NativeLoader {
    private static NativeLoaderDelegate delegate;

    private NativeLoader() {}

    public static synchronized boolean isInitialized() {
        return delegate != null;
    }

    public static synchronized void init(NativeLoaderDelegate given) {
        delegate = given;
    }

    public static boolean loadLibrary(String name) {
        return delegate.loadLibrary(name);
    }
}
