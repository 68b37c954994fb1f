package org.pocketfl;

import android.app.ActivityManager;
import android.app.Notification;
import android.app.NotificationChannel;
import android.app.NotificationManager;
import android.content.Context;
import android.content.Intent;
import android.content.pm.ServiceInfo;
import android.os.Build;
import androidx.work.Constraints;
import androidx.work.ExistingPeriodicWorkPolicy;
import androidx.work.ForegroundInfo;
import androidx.work.NetworkType;
import androidx.work.PeriodicWorkRequest;
import androidx.work.WorkManager;
import androidx.work.Worker;
import androidx.work.WorkerParameters;
import java.util.concurrent.TimeUnit;

/**
 * EXPERIMENTAL, not built by default and never run: rounds that the system starts, at night and on the
 * charger. See docs/android.md, "WorkManager".
 *
 * <p>A Java machine has one Python, so this worker trains nothing itself. It becomes a service of the
 * foreground through WorkManager, which may do so from the background, starts the app's Rounds service
 * as a plain one beside it, and waits for it to end. Conditions are looked at in Python again.
 */
public final class RoundsWorker extends Worker {
    private static final String NAME = "org.pocketfl.rounds";
    private static final String SERVICE = ".ServiceRounds";
    private static final int NOTIFICATION = 17;
    private static final long LOOK_SECONDS = 5;
    private static final long MOST_SECONDS = 9 * 60;

    public RoundsWorker(Context context, WorkerParameters parameters) {
        super(context, parameters);
    }

    /**
     * Asks the system to run rounds about every so many hours. Call it from Python while the app is open.
     *
     * @param argument what the Rounds service is started with; see start_rounds in services.py
     */
    public static void schedule(Context context, long hours, String argument) {
        Constraints constraints =
                new Constraints.Builder()
                        .setRequiresCharging(true)
                        .setRequiresDeviceIdle(true)
                        .setRequiredNetworkType(NetworkType.UNMETERED)
                        .build();
        PeriodicWorkRequest request =
                new PeriodicWorkRequest.Builder(RoundsWorker.class, hours, TimeUnit.HOURS)
                        .setConstraints(constraints)
                        .setInputData(
                                new androidx.work.Data.Builder()
                                        .putString("argument", argument)
                                        .build())
                        .build();
        WorkManager.getInstance(context)
                .enqueueUniquePeriodicWork(NAME, ExistingPeriodicWorkPolicy.UPDATE, request);
    }

    /** Takes it back. */
    public static void cancel(Context context) {
        WorkManager.getInstance(context).cancelUniqueWork(NAME);
    }

    @Override
    public Result doWork() {
        Context context = getApplicationContext();
        Intent service;
        try {
            setForegroundAsync(foreground(context)).get();
            Class<?> made = Class.forName(context.getPackageName() + SERVICE);
            service =
                    (Intent)
                            made.getMethod(
                                            "getDefaultIntent",
                                            Context.class,
                                            String.class,
                                            String.class,
                                            String.class,
                                            String.class)
                                    .invoke(
                                            null,
                                            context,
                                            "",
                                            "",
                                            "",
                                            getInputData().getString("argument"));
            service.putExtra("serviceStartAsForeground", "false");
            context.startService(service);
        } catch (ReflectiveOperationException
                | java.util.concurrent.ExecutionException
                | InterruptedException error) {
            return Result.failure();
        }
        for (long waited = 0; waited < MOST_SECONDS && !isStopped(); waited += LOOK_SECONDS) {
            try {
                TimeUnit.SECONDS.sleep(LOOK_SECONDS);
            } catch (InterruptedException error) {
                break;
            }
            if (!isRunning(context, service.getComponent().getClassName())) {
                return Result.success();
            }
        }
        // The system wants the phone back, or it takes too long: a round goes on from its checkpoint.
        context.stopService(service);
        return Result.success();
    }

    private static boolean isRunning(Context context, String name) {
        ActivityManager manager =
                (ActivityManager) context.getSystemService(Context.ACTIVITY_SERVICE);
        // Since Android 8 it lists the app's own services only, which is what is asked.
        for (ActivityManager.RunningServiceInfo info : manager.getRunningServices(100)) {
            if (name.equals(info.service.getClassName())) {
                return true;
            }
        }
        return false;
    }

    private static ForegroundInfo foreground(Context context) {
        NotificationManager manager =
                (NotificationManager) context.getSystemService(Context.NOTIFICATION_SERVICE);
        manager.createNotificationChannel(
                new NotificationChannel(NAME, "PocketFL", NotificationManager.IMPORTANCE_LOW));
        Notification notification =
                new Notification.Builder(context, NAME)
                        .setContentTitle("PocketFL")
                        .setSmallIcon(context.getApplicationInfo().icon)
                        .build();
        if (Build.VERSION.SDK_INT >= 29) {
            return new ForegroundInfo(
                    NOTIFICATION, notification, ServiceInfo.FOREGROUND_SERVICE_TYPE_DATA_SYNC);
        }
        return new ForegroundInfo(NOTIFICATION, notification);
    }
}
