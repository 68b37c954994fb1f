package android.content.pm;

import android.os.Bundle;

/** What the manifest says of the app. */
public final class ApplicationInfo {
    public Bundle metaData;
}
