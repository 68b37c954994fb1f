package org.kivy.android;

import android.content.Context;

/** The running activity of the app. */
public final class PythonActivity {
    private PythonActivity() {}

    public static final Context mActivity = new Context();
}
