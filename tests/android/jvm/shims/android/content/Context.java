package android.content;

import android.content.pm.PackageManager;

/** An app that is there, and no more. */
public final class Context {
    public String getPackageName() {
        return "org.pocketfl.harness";
    }

    public PackageManager getPackageManager() {
        return new PackageManager();
    }
}
