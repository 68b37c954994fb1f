package com.facebook.soloader.nativeloader;

/** Asks the Java machine itself. */
public final class SystemDelegate implements NativeLoaderDelegate {
    @Override
    public boolean loadLibrary(String name) {
        System.loadLibrary(name);
        return true;
    }
}
