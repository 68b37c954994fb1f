package android.util;

/** Android's log, on standard error. */
public final class Log {
    private Log() {}

    private static int print(String level, String tag, String message) {
        System.err.println(level + " " + tag + ": " + message);
        return 0;
    }

    public static int d(String tag, String message) {
        return 0;
    }

    public static int i(String tag, String message) {
        return 0;
    }

    public static int w(String tag, String message) {
        return print("W", tag, message);
    }

    public static int e(String tag, String message) {
        return print("E", tag, message);
    }

    public static int e(String tag, String message, Throwable error) {
        return print("E", tag, message + " " + error);
    }
}
