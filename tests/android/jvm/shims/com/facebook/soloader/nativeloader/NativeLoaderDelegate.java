package com.facebook.soloader.nativeloader;

/** Loads a native library by its short name. */
public interface NativeLoaderDelegate {
    boolean loadLibrary(String name);
}
