package android.os;

import java.util.Map;

/** Values by name: those of a manifest's meta-data. */
public final class Bundle {
    private final Map<String, String> values;

    public Bundle(Map<String, String> values) {
        this.values = values;
    }

    public String getString(String name) {
        return values.get(name);
    }
}
