package android.content.pm;

import android.os.Bundle;
import java.util.Map;

/** Knows one app, whose manifest names the version of ExecuTorch that the harness was given. */
public final class PackageManager {
    public static final int GET_META_DATA = 128;

    public ApplicationInfo getApplicationInfo(String name, int flags) {
        ApplicationInfo information = new ApplicationInfo();
        if (flags == GET_META_DATA) {
            information.metaData =
                    new Bundle(
                            Map.of(
                                    "org.pocketfl.executorch",
                                    System.getProperty("pocketfl.executorch")));
        }
        return information;
    }
}
