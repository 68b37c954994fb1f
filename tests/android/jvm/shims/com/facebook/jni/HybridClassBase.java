package com.facebook.jni;

/** Base of Java classes whose other half is C++. */
public abstract class HybridClassBase {
    private HybridData mHybridData;
}
